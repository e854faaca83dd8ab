"""A project with a module, a data file and an output file: draws what `data.csv` holds as a chart."""

import csv
import os

from chart.bars import draw

with open("data.csv", newline="") as file:
    rows = [(row["city"], float(row["rain_mm"])) for row in csv.DictReader(file)]

os.makedirs("out", exist_ok=True)
with open("out/rain.svg", "w") as file:
    file.write(draw(rows))
print(f"{len(rows)} bars in out/rain.svg")
