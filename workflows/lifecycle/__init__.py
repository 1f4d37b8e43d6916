"""One file per lifecycle workflow; the catalogue finds them."""
