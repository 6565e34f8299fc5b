import java.time.Duration;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.functions.AggregateFunction;
import org.apache.flink.api.common.functions.OpenContext;
import org.apache.flink.api.common.state.ListState;
import org.apache.flink.api.common.state.ListStateDescriptor;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.java.tuple.Tuple2;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.connector.base.DeliveryGuarantee;
import org.apache.flink.connector.kafka.sink.KafkaRecordSerializationSchema;
import org.apache.flink.connector.kafka.sink.KafkaSink;
import org.apache.flink.connector.kafka.source.KafkaSource;
import org.apache.flink.connector.kafka.source.enumerator.initializer.OffsetsInitializer;
import org.apache.flink.connector.kafka.source.reader.deserializer.KafkaRecordDeserializationSchema;
import org.apache.flink.streaming.api.datastream.DataStream;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.KeyedProcessFunction;
import org.apache.flink.streaming.api.functions.co.KeyedCoProcessFunction;
import org.apache.flink.streaming.api.functions.windowing.ProcessWindowFunction;
import org.apache.flink.streaming.api.windowing.assigners.TumblingEventTimeWindows;
import org.apache.flink.streaming.api.windowing.windows.TimeWindow;
import org.apache.flink.table.api.DataTypes;
import org.apache.flink.table.api.Schema;
import org.apache.flink.table.api.bridge.java.StreamTableEnvironment;
import org.apache.flink.table.connector.ChangelogMode;
import org.apache.flink.types.Row;
import org.apache.flink.types.RowKind;
import org.apache.flink.util.Collector;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.producer.ProducerRecord;

/** Flink in this JVM: parallelism 1, state on the heap, exactly-once sink. WORKLOAD BROKERS SOURCE TABLE OUT FOLDER */
public class Flink {
    private static String brokers;

    public static void main(String[] given) throws Exception {
        String workload = given[0], source = given[2], table = given[3], out = given[4];
        brokers = given[1];
        Configuration settings = new Configuration();
        settings.setString("execution.checkpointing.interval", "1s");
        settings.setString("execution.checkpointing.storage", "filesystem");
        settings.setString("execution.checkpointing.dir", "file://" + given[5]);
        settings.setString("state.backend.type", "hashmap");
        settings.setString("pipeline.object-reuse", "true");
        settings.setString("taskmanager.memory.network.min", "64mb");
        settings.setString("taskmanager.memory.network.max", "64mb");
        settings.setString("rest.bind-port", "0");
        StreamExecutionEnvironment flow = StreamExecutionEnvironment.createLocalEnvironment(1, settings);
        switch (workload) {
            case "pass" -> leave(flow.fromSource(raw(source, new Pairs()), WatermarkStrategy.noWatermarks(), "bids"), out);
            case "filter" -> leave(
                bids(flow, source).filter(bid -> bid.auction % 5 != 0).map(bid -> {
                    bid.price *= 0.75;
                    return Tuple2.of(Bid.key(bid.bidder), bid.bid());
                }).returns(PAIR), out);
            case "tumbling" -> leave(
                bids(flow, source).keyBy(bid -> bid.bidder).window(TumblingEventTimeWindows.of(Duration.ofSeconds(60)))
                    .aggregate(new Spend(), new Close()).returns(PAIR), out);
            case "look-back" -> leave(
                bids(flow, source).keyBy(bid -> bid.bidder).process(new LookBack()).returns(PAIR), out);
            case "join" -> {
                DataStream<Tuple2<byte[], byte[]>> profiles =
                    flow.fromSource(raw(table, new Pairs()), WatermarkStrategy.noWatermarks(), "profiles");
                DataStream<Tuple2<Long, Long>> segments = profiles
                    .map(pair -> Tuple2.of(java.nio.ByteBuffer.wrap(pair.f0).getLong(), Bid.segment(pair.f1)))
                    .returns(Types.TUPLE(Types.LONG, Types.LONG));
                leave(bids(flow, source).keyBy(bid -> bid.bidder)
                    .connect(segments.keyBy(pair -> pair.f0)).process(new Join()).returns(PAIR), out);
            }
            case "look-back sql" -> {
                StreamTableEnvironment tables = tables(flow, bids(flow, source));
                leave(rows(tables, """
                    SELECT bidder, `at`, b60, s60,
                      COUNT(*) OVER w AS b600, SUM(price) OVER w AS s600
                    FROM (SELECT bidder, price, `at`, ts, COUNT(*) OVER m AS b60, SUM(price) OVER m AS s60 FROM bids
                      WINDOW m AS (PARTITION BY bidder ORDER BY ts
                        RANGE BETWEEN INTERVAL '59.999' SECOND(2, 3) PRECEDING AND CURRENT ROW))
                    WINDOW w AS (PARTITION BY bidder ORDER BY ts
                      RANGE BETWEEN INTERVAL '599.999' SECOND(3, 3) PRECEDING AND CURRENT ROW)
                    """).map(row -> Tuple2.of(Bid.key((Long) row.getField(0)), Bid.looked(
                        (Long) row.getField(0), (Long) row.getField(1), (Long) row.getField(2), (Double) row.getField(3),
                        (Long) row.getField(4), (Double) row.getField(5)))).returns(PAIR), out);
            }
            case "join sql" -> {
                StreamTableEnvironment tables = tables(flow, bids(flow, source));
                DataStream<Row> profiles = flow.fromSource(
                    raw(table, new Profiles()), WatermarkStrategy.<Row>forMonotonousTimestamps(), "profiles");
                tables.createTemporaryView("profiles", tables.fromChangelogStream(profiles, Schema.newBuilder()
                    .column("bidder", "BIGINT NOT NULL").column("segment", "BIGINT NOT NULL")
                    .columnByMetadata("ts", DataTypes.TIMESTAMP_LTZ(3), "rowtime").watermark("ts", "SOURCE_WATERMARK()")
                    .primaryKey("bidder").build(), ChangelogMode.upsert()));
                leave(rows(tables, """
                    SELECT b.auction, b.bidder, b.price, b.`at`, p.segment
                    FROM bids AS b JOIN profiles FOR SYSTEM_TIME AS OF b.ts AS p ON b.bidder = p.bidder
                    """).map(row -> {
                        Bid bid = new Bid();
                        bid.auction = (Long) row.getField(0);
                        bid.bidder = (Long) row.getField(1);
                        bid.price = (Double) row.getField(2);
                        bid.at = (Long) row.getField(3);
                        return Tuple2.of(Bid.key(bid.bidder), bid.joined((Long) row.getField(4)));
                    }).returns(PAIR), out);
            }
            default -> throw new IllegalArgumentException(workload);
        }
        flow.execute(out);
    }

    private static final TypeInformation<Tuple2<byte[], byte[]>> PAIR = Types.TUPLE(
        Types.PRIMITIVE_ARRAY(Types.BYTE), Types.PRIMITIVE_ARRAY(Types.BYTE));

    private static <T> KafkaSource<T> raw(String topic, KafkaRecordDeserializationSchema<T> read) {
        return KafkaSource.<T>builder().setBootstrapServers(brokers).setTopics(topic).setGroupId(topic + ".flink")
            .setStartingOffsets(OffsetsInitializer.earliest()).setDeserializer(read)
            .setProperty("isolation.level", "read_committed").setProperty("max.poll.records", "10000").build();
    }

    private static DataStream<Bid> bids(StreamExecutionEnvironment flow, String topic) {
        return flow.fromSource(
            raw(topic, new Bids()), WatermarkStrategy.<Bid>forBoundedOutOfOrderness(Duration.ofMillis(20)), "bids");
    }

    private static StreamTableEnvironment tables(StreamExecutionEnvironment flow, DataStream<Bid> bids) {
        StreamTableEnvironment tables = StreamTableEnvironment.create(flow);
        tables.createTemporaryView("bids", bids, Schema.newBuilder()
            .column("auction", "BIGINT NOT NULL").column("bidder", "BIGINT NOT NULL").column("price", "DOUBLE NOT NULL")
            .column("at", "BIGINT NOT NULL")
            .columnByMetadata("ts", DataTypes.TIMESTAMP_LTZ(3), "rowtime").watermark("ts", "SOURCE_WATERMARK()").build());
        return tables;
    }

    private static DataStream<Row> rows(StreamTableEnvironment tables, String query) {
        return tables.toDataStream(tables.sqlQuery(query));
    }

    private static void leave(DataStream<Tuple2<byte[], byte[]>> stream, String out) {
        stream.sinkTo(KafkaSink.<Tuple2<byte[], byte[]>>builder().setBootstrapServers(brokers)
            .setDeliveryGuarantee(DeliveryGuarantee.EXACTLY_ONCE).setTransactionalIdPrefix(out)
            .setProperty("transaction.timeout.ms", "600000").setProperty("batch.size", "1048576")
            .setProperty("linger.ms", "100").setProperty("buffer.memory", "134217728")
            .setRecordSerializer((KafkaRecordSerializationSchema<Tuple2<byte[], byte[]>>)
                (pair, context, time) -> new ProducerRecord<>(out, pair.f0, pair.f1)).build());
    }

    public static final class Bids implements KafkaRecordDeserializationSchema<Bid> {
        @Override
        public void deserialize(ConsumerRecord<byte[], byte[]> record, Collector<Bid> out) {
            out.collect(Bid.read(record.value()));
        }

        @Override
        public TypeInformation<Bid> getProducedType() {
            return Types.POJO(Bid.class);
        }
    }

    public static final class Pairs implements KafkaRecordDeserializationSchema<Tuple2<byte[], byte[]>> {
        @Override
        public void deserialize(ConsumerRecord<byte[], byte[]> record, Collector<Tuple2<byte[], byte[]>> out) {
            out.collect(Tuple2.of(record.key(), record.value()));
        }

        @Override
        public TypeInformation<Tuple2<byte[], byte[]>> getProducedType() {
            return PAIR;
        }
    }

    public static final class Profiles implements KafkaRecordDeserializationSchema<Row> {
        @Override
        public void deserialize(ConsumerRecord<byte[], byte[]> record, Collector<Row> out) {
            out.collect(Row.ofKind(
                RowKind.UPDATE_AFTER, java.nio.ByteBuffer.wrap(record.key()).getLong(), Bid.segment(record.value())));
        }

        @Override
        public TypeInformation<Row> getProducedType() {
            return Types.ROW_NAMED(new String[] {"bidder", "segment"}, Types.LONG, Types.LONG);
        }
    }

    private static final class Spend implements AggregateFunction<Bid, Tuple2<Long, Double>, Tuple2<Long, Double>> {
        @Override
        public Tuple2<Long, Double> createAccumulator() {
            return Tuple2.of(0L, 0.0);
        }

        @Override
        public Tuple2<Long, Double> add(Bid bid, Tuple2<Long, Double> pane) {
            pane.f0++;
            pane.f1 += bid.price;
            return pane;
        }

        @Override
        public Tuple2<Long, Double> getResult(Tuple2<Long, Double> pane) {
            return pane;
        }

        @Override
        public Tuple2<Long, Double> merge(Tuple2<Long, Double> a, Tuple2<Long, Double> b) {
            return Tuple2.of(a.f0 + b.f0, a.f1 + b.f1);
        }
    }

    private static final class Close
        extends ProcessWindowFunction<Tuple2<Long, Double>, Tuple2<byte[], byte[]>, Long, TimeWindow> {
        @Override
        public void process(
            Long bidder, Context context, Iterable<Tuple2<Long, Double>> panes, Collector<Tuple2<byte[], byte[]>> out) {
            Tuple2<Long, Double> pane = panes.iterator().next();
            out.collect(Tuple2.of(
                Bid.key(bidder), Bid.spent(bidder, context.window().getStart() * 1000, pane.f0, pane.f1)));
        }
    }

    /** The bids of a bidder in the last 600 s, in order of arrival; disorder is below a second. */
    public static class Seen {
        public long[] at = new long[8];
        public double[] price = new double[8];
        public int size;

        public Seen() {}

        void add(long moment, double amount) {
            int gone = 0;
            while (gone < size && at[gone] <= moment - 601_000_000L) {
                gone++;
            }
            if (gone > 0) {
                size -= gone;
                System.arraycopy(at, gone, at, 0, size);
                System.arraycopy(price, gone, price, 0, size);
            }
            if (size == at.length) {
                at = java.util.Arrays.copyOf(at, 2 * size);
                price = java.util.Arrays.copyOf(price, 2 * size);
            }
            at[size] = moment;
            price[size++] = amount;
        }
    }

    private static final class LookBack extends KeyedProcessFunction<Long, Bid, Tuple2<byte[], byte[]>> {
        private transient ValueState<Seen> state;

        @Override
        public void open(OpenContext context) {
            state = getRuntimeContext().getState(new ValueStateDescriptor<>("seen", Types.POJO(Seen.class)));
        }

        @Override
        public void processElement(Bid bid, Context context, Collector<Tuple2<byte[], byte[]>> out) throws Exception {
            Seen seen = state.value();
            if (seen == null) {
                seen = new Seen();
            }
            seen.add(bid.at, bid.price);
            long bids60 = 0, bids600 = 0;
            double spend60 = 0, spend600 = 0;
            for (int i = 0; i < seen.size; i++) {
                if (seen.at[i] <= bid.at && seen.at[i] > bid.at - 600_000_000L) {
                    bids600++;
                    spend600 += seen.price[i];
                    if (seen.at[i] > bid.at - 60_000_000L) {
                        bids60++;
                        spend60 += seen.price[i];
                    }
                }
            }
            state.update(seen);
            out.collect(Tuple2.of(
                Bid.key(bid.bidder), Bid.looked(bid.bidder, bid.at, bids60, spend60, bids600, spend600)));
        }
    }

    /** Bids wait for their bidder's row where it is not there yet. */
    private static final class Join
        extends KeyedCoProcessFunction<Long, Bid, Tuple2<Long, Long>, Tuple2<byte[], byte[]>> {
        private transient ValueState<Long> segment;
        private transient ListState<Bid> waiting;

        @Override
        public void open(OpenContext context) {
            segment = getRuntimeContext().getState(new ValueStateDescriptor<>("segment", Types.LONG));
            waiting = getRuntimeContext().getListState(new ListStateDescriptor<>("waiting", Types.POJO(Bid.class)));
        }

        @Override
        public void processElement1(Bid bid, Context context, Collector<Tuple2<byte[], byte[]>> out) throws Exception {
            Long found = segment.value();
            if (found == null) {
                waiting.add(bid);
            } else {
                out.collect(Tuple2.of(Bid.key(bid.bidder), bid.joined(found)));
            }
        }

        @Override
        public void processElement2(Tuple2<Long, Long> row, Context context, Collector<Tuple2<byte[], byte[]>> out)
            throws Exception {
            segment.update(row.f1);
            for (Bid bid : waiting.get()) {
                out.collect(Tuple2.of(Bid.key(bid.bidder), bid.joined(row.f1)));
            }
            waiting.clear();
        }
    }
}
