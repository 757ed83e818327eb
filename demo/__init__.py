"""What the model does, on the screen and as a picture."""
