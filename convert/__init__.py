"""Programs that turn things into other things, and show that nothing was lost."""
