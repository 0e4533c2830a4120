"""place_jars.py CACHE JARS: Delta's JARs and PostgreSQL's JDBC driver, downloaded once into CACHE
and checked, into pyspark's folder JARS.

Delta's two are all that writing, merging and time travel need. The driver is for exports of lists:
without it set-up goes on. MAVEN_REPOSITORY names another repository than Maven Central. Standard
library only: it runs before anything is certain to be installed.
"""

import hashlib
import os
import shutil
import sys
import urllib.request
from pathlib import Path

MAVEN_CENTRAL = "https://repo1.maven.org/maven2"
DELTA = "4.4.0"  # held by pyspark and delta-spark in constraints.txt
_SPARK = f"io/delta/delta-spark_4.2_2.13/{DELTA}/delta-spark_4.2_2.13-{DELTA}.jar"
_STORAGE = f"io/delta/delta-storage/{DELTA}/delta-storage-{DELTA}.jar"
_POSTGRESQL = "org/postgresql/postgresql/42.7.8/postgresql-42.7.8.jar"
JARS = {  # path in the repository -> SHA-256
    _SPARK: "27d4fd8b1f879535c573ed1c718177d6a27f24d3e626ba02e216369725721ead",
    _STORAGE: "c46735481fa8e326b0957be02b4420cbcab4b325bb08009b7f2045a95133f1cc",
    _POSTGRESQL: "2a32a9dcbc42d67a50ad3a0de5efd102c8d2be46720045f2cbd6689f160ab7c7",
}
OPTIONAL = {_POSTGRESQL}


def place(cache: Path, jars: Path, repository: str) -> None:
    """Each file takes its name only when it is whole and its digest is right. Exits with a message
    on anything else; an optional one is left out with it.
    """
    cache.mkdir(parents=True, exist_ok=True)
    for path, sha256 in JARS.items():
        kept, target = cache / Path(path).name, jars / Path(path).name
        if not kept.exists() or digest(kept) != sha256:
            try:
                download(f"{repository.rstrip('/')}/{path}", kept, sha256)
            except SystemExit as problem:
                if path not in OPTIONAL:
                    raise
                print(f"{problem}. Without it: no export of lists to PostgreSQL", file=sys.stderr)
                continue
        if not target.exists() or digest(target) != sha256:
            beside = target.with_name(f".{target.name}.part")
            shutil.copyfile(kept, beside)
            os.replace(beside, target)


def download(url: str, target: Path, sha256: str) -> None:
    beside = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with urllib.request.urlopen(url, timeout=60) as source, open(beside, "wb") as out:
            shutil.copyfileobj(source, out)
        found = digest(beside)
        if found != sha256:
            sys.exit(
                f"setup: {url}: found SHA-256 {found}; expected {sha256}. "
                "To mend: set MAVEN_REPOSITORY to a repository that has this file"
            )
        os.replace(beside, target)
    except OSError as problem:
        sys.exit(
            f"setup: {url}: {problem}. To mend: check the network, or set MAVEN_REPOSITORY "
            "to a mirror of Maven Central"
        )
    finally:
        beside.unlink(missing_ok=True)
    print(f"setup: {target.name} downloaded and checked")


def digest(path: Path) -> str:
    with open(path, "rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


if __name__ == "__main__":
    place(Path(sys.argv[1]), Path(sys.argv[2]), os.environ.get("MAVEN_REPOSITORY") or MAVEN_CENTRAL)
