package org.pytorch.executorch;

import java.nio.Buffer;
import java.nio.ByteBuffer;

/** A program on the C++ runtime, behind the members of the Android library's class that the driver calls. */
public class Module {
  public static final int LOAD_MODE_MMAP = 1;

  static {
    System.loadLibrary("prge_executorch");
  }

  private long pointer;

  private Module(long opened) {
    pointer = opened;
  }

  /**
   * Maps a program.
   *
   * @param loadMode LOAD_MODE_MMAP; the bridge has no other.
   * @param numThreads for all programs of the process; 0 leaves the choice to the runtime.
   */
  public static Module load(String modelPath, int loadMode, int numThreads) {
    if (loadMode != LOAD_MODE_MMAP) throw new IllegalArgumentException("load mode " + loadMode);
    return new Module(open(modelPath, numThreads));
  }

  public synchronized String[] getMethods() {
    return methods(opened());
  }

  public synchronized void loadMethod(String methodName) {
    load(opened(), methodName);
  }

  /** Runs a method. Tensors that it returns are views, valid until the next call. */
  public synchronized EValue[] execute(String methodName, EValue... inputs) {
    Buffer[] data = new Buffer[inputs.length];
    int[] types = new int[inputs.length];
    int[][] shapes = new int[inputs.length][];
    for (int i = 0; i < inputs.length; i++) {
      Tensor tensor = inputs[i].toTensor();
      data[i] = tensor.data;
      types[i] = tensor.type;
      shapes[i] = new int[tensor.shape().length];
      for (int k = 0; k < shapes[i].length; k++) shapes[i][k] = Math.toIntExact(tensor.shape()[k]);
    }
    Object[] outputs = run(opened(), methodName, data, types, shapes);
    EValue[] values = new EValue[outputs.length];
    for (int i = 0; i < outputs.length; i++) values[i] = new EValue(outputs[i]);
    return values;
  }

  public synchronized void destroy() {
    if (pointer != 0) close(pointer);
    pointer = 0;
  }

  private long opened() {
    if (pointer == 0) throw new IllegalStateException("the module is destroyed");
    return pointer;
  }

  /** Called by the bridge for each tensor that comes out. */
  private static Tensor tensor(ByteBuffer data, int type, long[] shape) {
    return Tensor.view(data, type, shape);
  }

  private static native long open(String path, int threads);

  private static native String[] methods(long module);

  private static native void load(long module, String method);

  private static native Object[] run(long module, String method, Buffer[] data, int[] types, int[][] shapes);

  private static native void close(long module);
}
