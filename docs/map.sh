#!/bin/sh
# Draws docs/map.png from the repository root: the example audio in windows of a second, coloured by folder.
set -e
folder=$(mktemp -d)
mtslvr-embed examples/audio -o "$folder/windows.npz" --pool none --window 1 --hop 0.5 --quiet
mtslvr plot "$folder/windows.npz" -o docs/map.png --title 'Fifteen recordings in windows of a second, coloured by folder'
rm -r "$folder"
