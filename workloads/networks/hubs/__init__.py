"""Networks by the names that timm, torchvision and the Hugging Face Hub give them; a module each."""
