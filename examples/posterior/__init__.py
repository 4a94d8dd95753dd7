"""Samples given measurements, on real data: restored images, scans, a field from stations, a series with gaps.

python -m examples.posterior.images [--quick] [--out FOLDER] [--peers]

Each example prints a table and, with --out, draws a picture; so do scans, field and series. Nothing is downloaded: the
networks and the data that they have not seen are those of `fastdiff.demo`. scikit-image and matplotlib are needed.
"""
