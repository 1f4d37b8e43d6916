"""One file per lifecycle workflow. :mod:`workflows.catalog` finds them."""
