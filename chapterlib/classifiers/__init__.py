"""The methods of the book, one a file: each has `fit` and `predict`.

The names that other rooms and notebooks use stand in `__init__.pyi`; each is loaded
on first use.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
