"""The structure of networks: which neurons belong together, and how layers change their width."""
