"""Networks: built-in ones, the files that hold them, and formats that other programs run."""
