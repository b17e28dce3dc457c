"""The network: `frontend` makes spectrograms, `resnet` embeds them, `encoder` joins; next: `models`."""
