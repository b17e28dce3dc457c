"""The network: `frontend` makes spectrograms, `resnet` and `adapters` embed them, `encoder` joins; next: `models`."""
