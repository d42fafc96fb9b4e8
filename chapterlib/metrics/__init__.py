"""How good a classifier is, and how sure we can be of it.

Labels and predictions are arrays of class ids, integers from 0, of shape (n,); -1
stands for "no answer" among predictions and counts as wrong. All functions raise a
ValueError that names the row and the remedy where a value is none, where there are no
rows, or where lengths differ.
"""

import lazy_loader  # the names stand in __init__.pyi

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
