"""The API server: an engine that answers many questions together, and HTTP in front of it."""
