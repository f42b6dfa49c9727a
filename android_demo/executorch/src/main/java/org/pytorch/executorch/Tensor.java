package org.pytorch.executorch;

import java.nio.Buffer;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.nio.LongBuffer;

/** A tensor of float32 or int64, in a direct buffer. */
public class Tensor {
  // The runtime's numbers of the two dtypes.
  private static final int INT64 = 4;
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
    return new Tensor(type == FLOAT ? data.asFloatBuffer() : type == INT64 ? data.asLongBuffer() : data, type, shape);
  }

  public long[] shape() {
    return shape.clone();
  }

  public float[] getDataAsFloatArray() {
    if (type != FLOAT) throw new IllegalStateException("it is not of floats");
    float[] numbers = new float[data.capacity()];
    ((FloatBuffer) data.duplicate().rewind()).get(numbers);
    return numbers;
  }

  private static ByteBuffer bytes(long size) {
    return ByteBuffer.allocateDirect(Math.toIntExact(size)).order(ByteOrder.nativeOrder());
  }
}
