"""Files as sources and sinks: CSV, JSON Lines (both also gzipped), Parquet, Avro containers.

source.read_file     rows of a contract from a file, in bounded pieces, beside the rows that are bad
sink.FileSink        a file that is written as a whole or not at all
produce.produce_file the rows of a file to a topic
"""
