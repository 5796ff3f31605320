"""The whole path on one machine, each step a process as one would start it by hand: `make demo` and `make serve`."""
