"""Training of MT-SLVR encoders; inference never imports this package."""
