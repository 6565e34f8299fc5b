import java.nio.ByteBuffer;
import java.time.Duration;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import org.apache.kafka.common.serialization.Deserializer;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.serialization.Serializer;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.KeyValue;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.EmitStrategy;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.Joined;
import org.apache.kafka.streams.kstream.KStream;
import org.apache.kafka.streams.kstream.KTable;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.kstream.TimeWindows;
import org.apache.kafka.streams.processor.api.FixedKeyProcessor;
import org.apache.kafka.streams.processor.api.FixedKeyProcessorContext;
import org.apache.kafka.streams.processor.api.FixedKeyRecord;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.Stores;

/** Kafka Streams: one thread, exactly_once_v2, stores in memory with changelogs. WORKLOAD BROKERS SOURCE TABLE OUT FOLDER */
public class Streams {
    private static final Serde<byte[]> BYTES = Serdes.ByteArray();
    private static final Serde<Long> LONG = Serdes.Long();
    private static final Serde<Bid> BID = serde(Bid::bid, Bid::read);
    private static final Serde<double[]> PANE = serde(
        pane -> ByteBuffer.allocate(16).putDouble(pane[0]).putDouble(pane[1]).array(),
        bytes -> new double[] {ByteBuffer.wrap(bytes).getDouble(), ByteBuffer.wrap(bytes).getDouble(8)});

    public static void main(String[] given) throws Exception {
        String workload = given[0], source = given[2], table = given[3], out = given[4];
        StreamsBuilder builder = new StreamsBuilder();
        switch (workload) {
            case "pass" -> builder.stream(source, Consumed.with(BYTES, BYTES)).to(out, Produced.with(BYTES, BYTES));
            case "filter" -> builder.stream(source, Consumed.with(BYTES, BID))
                .filter((key, bid) -> bid.auction % 5 != 0)
                .mapValues(bid -> {
                    bid.price *= 0.75;
                    return bid;
                })
                .to(out, Produced.with(BYTES, BID));
            // Windows leave the store by its retention, and close once a second: a replay must not outrun it.
            case "tumbling" -> builder.stream(source, Consumed.with(LONG, BID))
                .groupByKey(Grouped.with(LONG, BID))
                .windowedBy(TimeWindows.ofSizeAndGrace(Duration.ofSeconds(60), Duration.ofMillis(20)))
                .emitStrategy(EmitStrategy.onWindowClose())
                .aggregate(
                    () -> new double[2],
                    (bidder, bid, pane) -> new double[] {pane[0] + 1, pane[1] + bid.price},
                    Materialized.<Long, double[]>as(Stores.inMemoryWindowStore(
                            "panes", Duration.ofMinutes(20), Duration.ofSeconds(60), false))
                        .withKeySerde(LONG).withValueSerde(PANE).withCachingDisabled())
                .toStream()
                .map((window, pane) -> KeyValue.pair(
                    window.key(),
                    Bid.spent(window.key(), window.window().start() * 1000, (long) pane[0], pane[1])))
                .to(out, Produced.with(LONG, BYTES));
            case "look-back" -> {
                builder.addStateStore(Stores.keyValueStoreBuilder(Stores.inMemoryKeyValueStore("seen"), LONG, BYTES));
                KStream<Long, Bid> bids = builder.stream(source, Consumed.with(LONG, BID));
                bids.processValues(LookBack::new, "seen").to(out, Produced.with(LONG, BYTES));
            }
            case "join" -> {
                KTable<Long, byte[]> profiles = builder.table(table, Consumed.with(LONG, BYTES),
                    Materialized.<Long, byte[]>as(Stores.inMemoryKeyValueStore("profiles")).withCachingDisabled());
                builder.stream(source, Consumed.with(LONG, BID))
                    .join(profiles, (bid, profile) -> bid.joined(Bid.segment(profile)), Joined.with(LONG, BID, BYTES))
                    .to(out, Produced.with(LONG, BYTES));
            }
            default -> throw new IllegalArgumentException(workload);
        }
        Properties settings = new Properties();
        settings.put(StreamsConfig.APPLICATION_ID_CONFIG, out);
        settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, given[1]);
        settings.put(StreamsConfig.STATE_DIR_CONFIG, given[5]);
        settings.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
        settings.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, 1000);
        settings.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 1);
        settings.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, 0);
        settings.put(StreamsConfig.consumerPrefix("auto.offset.reset"), "earliest");
        settings.put(StreamsConfig.consumerPrefix("max.poll.records"), 10000);
        settings.put(StreamsConfig.producerPrefix("batch.size"), 1 << 20);
        settings.put(StreamsConfig.producerPrefix("buffer.memory"), 128L << 20);
        KafkaStreams streams = new KafkaStreams(builder.build(), settings);
        streams.setUncaughtExceptionHandler(error -> {
            error.printStackTrace();
            Runtime.getRuntime().halt(1);
            return null;
        });
        streams.start();
        new CountDownLatch(1).await();
    }

    private interface Out<T> {
        byte[] of(T value);
    }

    private interface In<T> {
        T of(byte[] value);
    }

    private static <T> Serde<T> serde(Out<T> out, In<T> in) {
        Serializer<T> serializer = (topic, value) -> value == null ? null : out.of(value);
        Deserializer<T> deserializer = (topic, value) -> value == null ? null : in.of(value);
        return Serdes.serdeFrom(serializer, deserializer);
    }

    /** Bids of a bidder in the last 600 s as 16 bytes each, in order of arrival; disorder is below a second. */
    private static final class LookBack implements FixedKeyProcessor<Long, Bid, byte[]> {
        private FixedKeyProcessorContext<Long, byte[]> context;
        private KeyValueStore<Long, byte[]> seen;

        @Override
        public void init(FixedKeyProcessorContext<Long, byte[]> context) {
            this.context = context;
            this.seen = context.getStateStore("seen");
        }

        @Override
        public void process(FixedKeyRecord<Long, Bid> record) {
            Bid bid = record.value();
            byte[] before = seen.get(record.key());
            ByteBuffer old = ByteBuffer.wrap(before == null ? new byte[0] : before);
            int from = 0;
            while (from < old.limit() && old.getLong(from) <= bid.at - 601_000_000L) {
                from += 16;
            }
            ByteBuffer kept = ByteBuffer.allocate(old.limit() - from + 16);
            kept.put(old.array(), from, old.limit() - from).putLong(bid.at).putDouble(bid.price);
            long bids60 = 0, bids600 = 0;
            double spend60 = 0, spend600 = 0;
            for (int place = 0; place < kept.limit(); place += 16) {
                long at = kept.getLong(place);
                if (at <= bid.at && at > bid.at - 600_000_000L) {
                    bids600++;
                    spend600 += kept.getDouble(place + 8);
                    if (at > bid.at - 60_000_000L) {
                        bids60++;
                        spend60 += kept.getDouble(place + 8);
                    }
                }
            }
            seen.put(record.key(), kept.array());
            context.forward(record.withValue(Bid.looked(record.key(), bid.at, bids60, spend60, bids600, spend600)));
        }
    }
}
