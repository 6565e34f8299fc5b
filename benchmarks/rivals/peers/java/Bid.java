import java.nio.charset.StandardCharsets;
import java.util.Arrays;

/** A bid, and the Avro bodies of what the workloads read and write, behind Confluent's five bytes. */
public class Bid {
    public long auction;
    public long bidder;
    public double price;
    public String channel;
    public String url;
    public long at;

    public Bid() {}

    public static Bid read(byte[] value) {
        Reader in = new Reader(value);
        Bid bid = new Bid();
        bid.auction = in.number();
        bid.bidder = in.number();
        bid.price = in.real();
        bid.channel = in.text();
        bid.url = in.text();
        bid.at = in.number();
        return bid;
    }

    public byte[] bid() {
        return new Writer().number(auction).number(bidder).real(price).text(channel).text(url).number(at).bytes();
    }

    public byte[] joined(long segment) {
        return new Writer().number(auction).number(bidder).real(price).number(at).number(segment).bytes();
    }

    public static byte[] spent(long bidder, long at, long bids, double spend) {
        return new Writer().number(bidder).number(at).number(bids).real(spend).bytes();
    }

    public static byte[] looked(long bidder, long at, long bids60, double spend60, long bids600, double spend600) {
        return new Writer().number(bidder).number(at).number(bids60).real(spend60).number(bids600).real(spend600).bytes();
    }

    /** The segment of a row of the table. */
    public static long segment(byte[] value) {
        Reader in = new Reader(value);
        in.number();
        return in.number();
    }

    public static byte[] key(long number) {
        byte[] key = new byte[8];
        for (int i = 7; i >= 0; i--, number >>= 8) {
            key[i] = (byte) number;
        }
        return key;
    }

    private static final class Reader {
        private final byte[] value;
        private int place = 5;

        Reader(byte[] value) {
            this.value = value;
        }

        long number() {
            long found = 0;
            for (int shift = 0; ; shift += 7) {
                byte piece = value[place++];
                found |= (long) (piece & 0x7f) << shift;
                if (piece >= 0) {
                    return (found >>> 1) ^ -(found & 1);
                }
            }
        }

        double real() {
            long bits = 0;
            for (int i = 7; i >= 0; i--) {
                bits = bits << 8 | value[place + i] & 0xff;
            }
            place += 8;
            return Double.longBitsToDouble(bits);
        }

        String text() {
            int length = (int) number();
            String found = new String(value, place, length, StandardCharsets.UTF_8);
            place += length;
            return found;
        }
    }

    private static final class Writer {
        private byte[] value = new byte[128];
        private int place = 5;

        Writer number(long number) {
            long rest = number << 1 ^ number >> 63;
            while ((rest & ~0x7fL) != 0) {
                value[place++] = (byte) (rest & 0x7f | 0x80);
                rest >>>= 7;
            }
            value[place++] = (byte) rest;
            return this;
        }

        Writer real(double number) {
            long bits = Double.doubleToRawLongBits(number);
            for (int i = 0; i < 8; i++, bits >>= 8) {
                value[place++] = (byte) bits;
            }
            return this;
        }

        Writer text(String text) {
            byte[] bytes = text.getBytes(StandardCharsets.UTF_8);
            number(bytes.length);
            if (place + bytes.length + 32 > value.length) {
                value = Arrays.copyOf(value, 2 * (place + bytes.length + 32));
            }
            System.arraycopy(bytes, 0, value, place, bytes.length);
            place += bytes.length;
            return this;
        }

        byte[] bytes() {
            return Arrays.copyOf(value, place);
        }
    }
}
