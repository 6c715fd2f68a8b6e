"""The machines themselves: which addresses they use, whether they can work together, and running a
command on all of them. Not run on a Mac."""
