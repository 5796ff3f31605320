"""The feature catalogue, the one function that makes vectors, and the Feast objects that follow from both."""
