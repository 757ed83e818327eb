"""Annotation of eight photographs by real models; see docs/annotate-photographs.md."""
