"""Reports: self-contained web pages, images with coloured masks, drawings, and text tables."""
