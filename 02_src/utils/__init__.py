"""Layer 0 helpers: text normalisation and the formatting of pairs. No torch."""
