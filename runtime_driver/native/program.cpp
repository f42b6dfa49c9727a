#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor_ptr.h>

#include "internal.h"

// The wheel has the library, not its header (extension/threadpool/threadpool.h).
namespace executorch::extension::threadpool {
class ThreadPool {
 public:
  bool _unsafe_reset_threadpool(uint32_t threads);
};
ThreadPool* get_threadpool();
}  // namespace executorch::extension::threadpool

namespace prge {

using executorch::extension::Module;
using executorch::runtime::EValue;
using RuntimeError = executorch::runtime::Error;

struct Program::Runtime : Module {
  using Module::Module;
};

namespace {

std::vector<float> floats(const EValue& value) {
  auto tensor = value.toTensor();
  if (tensor.scalar_type() != executorch::aten::ScalarType::Float) throw Error("an output is not of floats");
  return {tensor.const_data_ptr<float>(), tensor.const_data_ptr<float>() + tensor.numel()};
}

}  // namespace

Manifest read_manifest(const std::string& text, const std::string& where) try {
  Json j = parse_json(text), adapter = j.at("adapter"), mask = j.at("mask_token");
  if (j.at("format") != "prge" || j.at("version") != 1) throw Odd("another version");
  if (j.at("kind") != "step") throw Odd("it continues text, and does not train");
  Manifest m{};
  m.json = text;
  m.adapter_sha256 = adapter.at("sha256");
  const std::pair<const char*, std::string Manifest::*> texts[] = {
      {"model", &Manifest::model}, {"model_sha256", &Manifest::model_sha256}, {"perturb", &Manifest::perturb},
      {"optimizer", &Manifest::optimizer}, {"objective", &Manifest::objective}, {"answer_at", &Manifest::answer_at}};
  for (auto [name, field] : texts) m.*field = j.at(name);
  const std::pair<const char*, int64_t Manifest::*> sizes[] = {
      {"queries", &Manifest::queries}, {"batch", &Manifest::batch}, {"min_tokens", &Manifest::min_tokens},
      {"max_tokens", &Manifest::max_tokens}, {"max_targets", &Manifest::max_targets}};
  for (auto [name, field] : sizes) m.*field = whole(j.at(name), 1 << 20);
  m.state_size = whole(j.at("state_size"));
  m.pad_token = whole(j.at("pad_token"));
  m.mask_token = mask.is_null() ? -1 : whole(mask);
  m.vocabulary = whole(j.at("architecture").at("vocabulary"));
  m.labels = static_cast<int64_t>(j.at("labels").size());
  for (auto& module : adapter.at("modules"))
    m.parameters += whole(module.at("core").at(0), 1 << 20) * whole(module.at("core").at(1), 1 << 20);
  if (m.queries < 1 || m.batch < 1 || m.max_tokens < 1 || m.parameters < 1 || m.parameters > m.state_size)
    throw Odd("its sizes make no step");
  m.beta_mean = j.at("betas").at(0);
  m.beta_square = j.at("betas").at(1);
  m.eps = j.at("eps");
  m.lr = j.at("lr");
  m.outer = j.at("outer");
  m.inner = j.at("inner");
  m.choices = j.at("choices") != "";
  return m;
} catch (const std::exception& e) {
  throw Error(where + " is not a program made by prge, or by another version of it (" + e.what() + ")");
}

Program::Program(const std::string& path, unsigned threads)
    : path_(fs::exists(path + "/program.pte") ? path + "/program.pte" : path) {
  if (!fs::exists(path_)) throw Error(path_ + " does not exist; make it with `prge export`");
  if (threads && !executorch::extension::threadpool::get_threadpool()->_unsafe_reset_threadpool(threads))
    throw Error("the runtime does not take " + std::to_string(threads) + " threads");
  runtime_ = std::make_unique<Runtime>(path_, Module::LoadMode::Mmap);
  if (runtime_->load(executorch::runtime::Program::Verification::InternalConsistency) != RuntimeError::Ok)
    throw Error(path_ + " is no ExecuTorch program, or it is truncated or damaged; copy or export it again");
  auto said = runtime_->execute("manifest");
  if (!said.ok() || said->empty() || !said->at(0).isString())
    throw Error(path_ + " is an ExecuTorch program, but not one made by prge (it has no manifest)");
  auto text = said->at(0).toString();
  manifest_ = read_manifest({text.data(), text.size()}, path_);
  if (runtime_->load_method("forward") != RuntimeError::Ok)
    throw Error(path_ + " is damaged, or made for another version of the ExecuTorch runtime");
}

Program::~Program() = default;

std::vector<float> Program::initial_state() const {
  const Manifest& m = manifest_;
  if (parse_json(m.json).at("adapter").at("subspace") != "peft") return std::vector<float>(m.state_size);
  std::string file = fs::path(path_).replace_filename("initial.safetensors").string();
  auto held = Tensors<float>::read(file, "a state of prge", false);
  auto& state = held.vectors["state"];
  if (static_cast<int64_t>(state.size()) != m.state_size || held.text("adapter_sha256") != m.adapter_sha256)
    throw Error(file + " is not the state that the program goes on from; copy it there again");
  return state;
}

Program::Result Program::execute(const Batch& rows, const std::vector<float>& state, int64_t seed, double lr,
                                 double eps) {
  before_each();
  const Manifest& m = manifest_;
  Inputs in = collate(rows, m);
  int64_t n = rows.size(), width = in.position.size() / rows.size();
  std::vector<executorch::extension::TensorPtr> inputs;
  auto give = [&](std::vector<int64_t> sizes, auto numbers) {
    inputs.push_back(executorch::extension::make_tensor_ptr({sizes.begin(), sizes.end()}, std::move(numbers)));
  };
  give({m.state_size}, state);
  give({n, in.length}, std::move(in.tokens));
  give({n, width}, std::move(in.position));
  give(m.label_words() ? std::vector{n} : std::vector{n, width}, std::move(in.target));
  if (!m.label_words()) give({n, width}, std::move(in.weight));
  give({1}, std::vector<int64_t>{seed});
  give({1}, std::vector<float>{static_cast<float>(lr)});
  give({1}, std::vector<float>{static_cast<float>(eps)});
  auto began = Clock::now();
  auto outputs = runtime_->execute("forward", std::vector<EValue>(inputs.begin(), inputs.end()));
  execution_seconds += since(began);
  if (!outputs.ok()) throw Error(path_ + ": the ExecuTorch runtime could not run a step");
  Result result{floats(outputs->at(0)), floats(outputs->at(1)), {}};
  if (m.label_words()) result.scores = floats(outputs->at(2));
  if (result.state.size() != state.size() || result.losses.size() != rows.size() ||
      result.scores.size() != (m.label_words() ? rows.size() * m.labels : 0))
    throw Error(path_ + ": its outputs are not of the size that its manifest says");
  return result;
}

Program::Result Program::step(const Batch& batch, const std::vector<float>& state, int64_t seed, double lr,
                              double eps) {
  Batch rows;
  for (int64_t copy = 0; copy < manifest_.copies(); copy++) rows.insert(rows.end(), batch.begin(), batch.end());
  return step_by(manifest_, state, seed, lr, eps, [&](int64_t query_seed, double query_lr, double signed_eps) {
    return execute(rows, state, query_seed, query_lr, signed_eps);
  });
}

}  // namespace prge
