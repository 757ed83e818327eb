"""The stages of each level: what they read, which model they call, what they write."""
