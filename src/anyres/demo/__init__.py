"""A local web page to play with a model.

    options.py  the options of `anyres demo`
    making.py   images in the making: a preview every now and then, until they are done
    page.py     what is on the page, and what its buttons do
    command.py  `anyres demo`: serve the page

Import from the modules; this file imports nothing.
"""
