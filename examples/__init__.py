"""Complete programs that use the library; each folder has one."""
