"""The vocabulary of the package: types, names, how values are written, devices. Imports nothing of ours."""
