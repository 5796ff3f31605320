"""Settings, log contracts and what every room needs to know of this installation."""
