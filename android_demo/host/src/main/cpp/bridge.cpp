// The native methods of org.pytorch.executorch.Module, on the C++ libraries of the executorch wheel.
#include <jni.h>

#include <string>
#include <vector>

#include "runtime.h"

namespace {

using executorch::extension::Module;
using executorch::runtime::EValue;
using executorch::runtime::Error;

Module& module(jlong pointer) { return *reinterpret_cast<Module*>(pointer); }

void fail(JNIEnv* env, const std::string& what) {
  env->ThrowNew(env->FindClass("java/lang/RuntimeException"), what.c_str());
}

std::string text(JNIEnv* env, jstring given) {
  const char* held = env->GetStringUTFChars(given, nullptr);
  std::string found = held;
  env->ReleaseStringUTFChars(given, held);
  return found;
}

std::string code(Error error) { return " (error " + std::to_string(static_cast<uint32_t>(error)) + ")"; }

jobject value(JNIEnv* env, jclass type, const EValue& given) {
  if (given.isString()) {
    auto held = given.toString();
    return env->NewStringUTF(std::string(held.data(), held.size()).c_str());
  }
  if (!given.isTensor()) return nullptr;
  auto tensor = given.toTensor();
  std::vector<jlong> sizes(tensor.sizes().begin(), tensor.sizes().end());
  jlongArray shape = env->NewLongArray(static_cast<jsize>(sizes.size()));
  env->SetLongArrayRegion(shape, 0, static_cast<jsize>(sizes.size()), sizes.data());
  jobject data = env->NewDirectByteBuffer(tensor.mutable_data_ptr(), static_cast<jlong>(tensor.nbytes()));
  jmethodID make = env->GetStaticMethodID(type, "tensor", "(Ljava/nio/ByteBuffer;I[J)Lorg/pytorch/executorch/Tensor;");
  return env->CallStaticObjectMethod(type, make, data, static_cast<jint>(tensor.scalar_type()), shape);
}

}  // namespace

extern "C" {

JNIEXPORT jlong JNICALL Java_org_pytorch_executorch_Module_open(JNIEnv* env, jclass, jstring path, jint threads) {
  auto* pool = executorch::extension::threadpool::get_threadpool();
  if (threads && !pool->_unsafe_reset_threadpool(static_cast<uint32_t>(threads)))
    return fail(env, "the runtime does not take so many threads"), 0;
  auto made = std::make_unique<Module>(text(env, path), Module::LoadMode::Mmap);
  Error error = made->load(executorch::runtime::Program::Verification::InternalConsistency);
  if (error != Error::Ok) return fail(env, "the program cannot be loaded" + code(error)), 0;
  return reinterpret_cast<jlong>(made.release());
}

JNIEXPORT jobjectArray JNICALL Java_org_pytorch_executorch_Module_methods(JNIEnv* env, jclass, jlong pointer) {
  auto names = module(pointer).method_names();
  if (!names.ok()) return fail(env, "the methods cannot be read" + code(names.error())), nullptr;
  auto count = static_cast<jsize>(names->size());
  jobjectArray found = env->NewObjectArray(count, env->FindClass("java/lang/String"), nullptr);
  jsize i = 0;
  for (auto& name : *names) env->SetObjectArrayElement(found, i++, env->NewStringUTF(name.c_str()));
  return found;
}

JNIEXPORT void JNICALL Java_org_pytorch_executorch_Module_load(JNIEnv* env, jclass, jlong pointer, jstring method) {
  Error error = module(pointer).load_method(text(env, method));
  if (error != Error::Ok) fail(env, "the method cannot be loaded" + code(error));
}

JNIEXPORT jobjectArray JNICALL Java_org_pytorch_executorch_Module_run(
    JNIEnv* env, jclass type, jlong pointer, jstring method, jobjectArray data, jintArray types, jobjectArray shapes) {
  std::vector<executorch::extension::TensorPtr> tensors;
  std::vector<EValue> inputs;
  std::vector<jint> dtypes(env->GetArrayLength(types));
  env->GetIntArrayRegion(types, 0, static_cast<jsize>(dtypes.size()), dtypes.data());
  for (jsize i = 0; i < static_cast<jsize>(dtypes.size()); i++) {
    auto sizes = static_cast<jintArray>(env->GetObjectArrayElement(shapes, i));
    std::vector<executorch::aten::SizesType> shape(env->GetArrayLength(sizes));
    env->GetIntArrayRegion(sizes, 0, static_cast<jsize>(shape.size()), shape.data());
    void* bytes = env->GetDirectBufferAddress(env->GetObjectArrayElement(data, i));
    auto dtype = static_cast<executorch::aten::ScalarType>(dtypes[i]);
    tensors.push_back(executorch::extension::make_tensor_ptr(std::move(shape), bytes, dtype));
    inputs.emplace_back(tensors.back());
  }
  auto outputs = module(pointer).execute(text(env, method), inputs);
  if (!outputs.ok()) return fail(env, "the method cannot be run" + code(outputs.error())), nullptr;
  auto count = static_cast<jsize>(outputs->size());
  jobjectArray found = env->NewObjectArray(count, env->FindClass("java/lang/Object"), nullptr);
  for (jsize i = 0; i < count && !env->ExceptionCheck(); i++)
    env->SetObjectArrayElement(found, i, value(env, type, outputs->at(i)));
  return found;
}

JNIEXPORT void JNICALL Java_org_pytorch_executorch_Module_close(JNIEnv*, jclass, jlong pointer) {
  delete &module(pointer);
}

}  // extern "C"
