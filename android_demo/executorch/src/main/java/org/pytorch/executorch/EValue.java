package org.pytorch.executorch;

/** What goes into a method or comes out: a tensor, or a text. */
public class EValue {
  private final Object value;

  EValue(Object value) {
    this.value = value;
  }

  public static EValue from(Tensor tensor) {
    return new EValue(tensor);
  }

  public boolean isTensor() {
    return value instanceof Tensor;
  }

  public boolean isString() {
    return value instanceof String;
  }

  public Tensor toTensor() {
    if (!isTensor()) throw new IllegalStateException("it is no tensor");
    return (Tensor) value;
  }

  public String toStr() {
    if (!isString()) throw new IllegalStateException("it is no text");
    return (String) value;
  }
}
