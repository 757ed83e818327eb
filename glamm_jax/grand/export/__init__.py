"""Export of annotated images in the formats of other programs.

Every exporter is a function that takes an iterable of `AnnotatedImage` and `GrandRecord` pairs and
a destination, reads the iterable once and holds one image in memory at a time. It filters
(`filters`), writes beside the destination, renames, and returns an `ExportSummary`, which is also
stored as export.json in the destination. Equal input gives equal bytes.
"""
