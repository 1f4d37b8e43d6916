"""One file per lifecycle workflow. The catalogue finds them."""
