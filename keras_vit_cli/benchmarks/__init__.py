"""What `keras-vit bench` measures and how: contenders in processes of their own, taking turns."""
