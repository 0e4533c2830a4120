"""Package metadata and dependencies. Ranges stand here, exact versions in constraints.txt; `make
setup` installs with both.
"""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
VERSION = re.search(
    r'__version__ = "(.+)"', (HERE / "recsys_spark" / "__init__.py").read_text(encoding="utf-8")
)
assert VERSION, "recsys_spark/__init__.py has no __version__"
README = HERE / "README.md"


class WithConfigurations(build_py):
    """A wheel has `conf/` and two pages of `docs/` inside the package; a checkout has them beside
    it.
    """

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            package = Path(self.build_lib) / "recsys_spark"
            shutil.copytree(HERE / "conf", package / "conf", dirs_exist_ok=True)
            # Of which `recsys-spark models NAME` shows the figures
            (package / "docs").mkdir(exist_ok=True)
            for page in ("parity.md", "results.md"):
                shutil.copy(HERE / "docs" / page, package / "docs")


setup(
    name="recsys_spark",
    version=VERSION.group(1),
    description="Recommendations from raw logs to Delta "
    "tables: Spark, Petastorm, Horovod and PyTorch",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    # `make setup` takes 3.11, the version that constraints.txt was tried with
    python_requires=">=3.11",
    packages=find_packages(include=["recsys_spark", "recsys_spark.*"]),
    package_data={
        "recsys_spark": ["py.typed"],
        "recsys_spark.report": ["*.html", "*.css", "*.js"],
    },
    cmdclass={"build_py": WithConfigurations},
    entry_points={"console_scripts": ["recsys-spark = recsys_spark.cli:main"]},
    install_requires=[
        "deltalake>=1",
        "fsspec",
        "numpy>=2",
        "omegaconf>=2.4",
        "pandas>=2.3,<3",
        "psutil",
        "pyarrow>=21",
        "pydantic>=2.14",
        "PyYAML>=6",
        "rich>=15",
        "safetensors>=0.8",
        "scipy>=1.17",
        "torch>=2.13",
        "typer>=0.29",
        # What Horovod imports. Horovod itself is compiled against the installed torch by
        # deploy/build_horovod.sh: named here, pip would install it without its native library.
        # Training on one process or through torch.distributed needs none.
        "cffi",
        "cloudpickle",
        "packaging",
    ],
    extras_require={
        # Left out where the platform brings its own Spark and Delta, as Databricks does (petastorm
        # pulls pyspark in).
        "local": ["pyspark>=4.0.1,<=4.2.0", "delta-spark==4.4.0", "petastorm==0.12.1"],
        "tune": ["optuna>=5"],
        "boost": ["lightgbm>=4.6"],
        # moto[s3] with flask and flask-cors is its S3 server; its extra `server` would bring 40
        # packages for other services.
        "test": [
            "flask",
            "flask-cors",
            "import-linter",
            "moto[s3]>=5",
            "mypy",
            "pytest>=9",
            "pytest-xdist",
            "ruff",
            "scikit-learn",
        ],
    },
)
