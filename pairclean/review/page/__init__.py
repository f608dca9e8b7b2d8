"""The page on which people label pairs; needs the extra `pairclean[review]`."""
