from recsys_spark.cli import main

main()
