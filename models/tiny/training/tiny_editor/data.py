"""Downloads the packages that hold the pictures, through pip and apt, and unpacks them; installs nothing."""

import subprocess
import sys
import zipfile

from . import paths

# scipy's picture left the package after this version.
WHEELS = ("scikit-image==0.26.0", "scikit-learn==1.9.1", "scipy==1.9.3")
DEBS = ("lomiri-wallpapers-16.04", "fonts-noto-color-emoji")


def fetch():
    paths.DATA.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, "-m", "pip", "download", "--no-deps", "--python-version", "3.11",
                    "--only-binary=:all:", *WHEELS], cwd=paths.DATA, check=True)
    subprocess.run(["apt-get", "download", *DEBS], cwd=paths.DATA, check=True)
    for wheel in paths.DATA.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(paths.DATA / wheel.name.split("-")[0])
    for package in paths.DATA.glob("*.deb"):
        subprocess.run(["dpkg", "-x", package, paths.DATA / package.name.split("_")[0]], check=True)
