"""What pyproject.toml cannot say: ``configs/`` becomes ``rscd/configs/`` of the wheel."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["rscd*"]), "rscd.configs"],
    package_dir={"rscd.configs": "configs"},
)
