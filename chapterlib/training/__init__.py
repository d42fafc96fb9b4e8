"""Change the weights of a model: adapters, the loop, presets, saving."""

import lazy_loader  # the names stand in __init__.pyi

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
