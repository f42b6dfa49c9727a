package org.pytorch.executorch;

import java.nio.Buffer;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.nio.LongBuffer;
import java.nio.ShortBuffer;

/** A tensor of float32 or int64, in a direct buffer; a view may be of float16 too. */
public class Tensor {
  // The runtime's numbers of the dtypes.
  private static final int INT64 = 4;
  private static final int HALF = 5;
  private static final int FLOAT = 6;

  final Buffer data;
  final int type;
  private final long[] shape;

  private Tensor(Buffer data, int type, long[] shape) {
    this.data = data;
    this.type = type;
    this.shape = shape.clone();
    long count = 1;
    for (long size : shape) count *= size;
    if (count != data.capacity()) throw new IllegalArgumentException("the shape is not that of the data");
  }

  public static Tensor fromBlob(float[] data, long[] shape) {
    FloatBuffer buffer = bytes(4L * data.length).asFloatBuffer();
    buffer.put(data);
    return new Tensor(buffer, FLOAT, shape);
  }

  public static Tensor fromBlob(long[] data, long[] shape) {
    LongBuffer buffer = bytes(8L * data.length).asLongBuffer();
    buffer.put(data);
    return new Tensor(buffer, INT64, shape);
  }

  /** A tensor over memory of the runtime's. */
  static Tensor view(ByteBuffer memory, int type, long[] shape) {
    ByteBuffer data = memory.order(ByteOrder.nativeOrder());
    switch (type) {
      case FLOAT:
        return new Tensor(data.asFloatBuffer(), type, shape);
      case HALF:
        return new Tensor(data.asShortBuffer(), type, shape);
      case INT64:
        return new Tensor(data.asLongBuffer(), type, shape);
      default:
        return new Tensor(data, type, shape);
    }
  }

  public long[] shape() {
    return shape.clone();
  }

  public float[] getDataAsFloatArray() {
    if (type != FLOAT && type != HALF) throw new IllegalStateException("it is not of floats");
    float[] numbers = new float[data.capacity()];
    if (type == FLOAT) ((FloatBuffer) data.duplicate().rewind()).get(numbers);
    else for (int i = 0; i < numbers.length; i++) numbers[i] = ofHalf(((ShortBuffer) data).get(i));
    return numbers;
  }

  /** A number by the bits of its float16. */
  private static float ofHalf(short bits) {
    int exponent = bits >> 10 & 31, fraction = bits & 1023;
    float size = exponent == 0 ? Math.scalb((float) fraction, -24) : Math.scalb(1024f + fraction, exponent - 25);
    if (exponent == 31) size = fraction == 0 ? Float.POSITIVE_INFINITY : Float.NaN;
    return bits < 0 ? -size : size;
  }

  private static ByteBuffer bytes(long size) {
    return ByteBuffer.allocateDirect(Math.toIntExact(size)).order(ByteOrder.nativeOrder());
  }
}
