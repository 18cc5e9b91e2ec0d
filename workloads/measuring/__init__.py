"""What networks do and how large they are: accuracy, parameters, multiplications, latency, and planes between them."""
