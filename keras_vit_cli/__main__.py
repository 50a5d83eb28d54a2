"""`python -m keras_vit_cli` is `keras-vit`."""

from keras_vit_cli import main

main()
