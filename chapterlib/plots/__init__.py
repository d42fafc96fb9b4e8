"""The figures of the book: each function draws data into axes and returns these.

What all of them have in common is told here once. They take tables and arrays, and two
keywords: `ax`, the `Axes` to draw into, by default those of a new figure, and `title`,
the finding, which is broken into lines that fit. They return the `Axes`, leave all
settings of matplotlib as they are, and raise a ValueError, before anything is drawn,
where a column is missing or nothing is left to draw. A `method` in a table is a slug,
such as "probe", which decides on color and marker; `class_style` does so for the rest.
"""

import lazy_loader  # the names stand in __init__.pyi

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
