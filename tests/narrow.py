"""Encoders of cut widths, whose training states take kilobytes; as a program, `mtslvr` with such encoders."""

WIDTHS = (8, 8, 16, 16)  # of the four stages


def cut_widths(setattr=setattr):
    """Let encoders that are made from now on be narrow; `setattr` may be one that is undone, as monkeypatch's."""
    from mtslvr import config
    from mtslvr.nn import resnet

    setattr(config, "STAGE_CHANNELS", WIDTHS)
    setattr(config, "POOLED_DIM", WIDTHS[-1])
    setattr(resnet, "STAGE_CHANNELS", WIDTHS)


if __name__ == "__main__":
    from mtslvr.cli.main import main

    cut_widths()
    main()
