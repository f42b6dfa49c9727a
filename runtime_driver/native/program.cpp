#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor_ptr.h>

#include <algorithm>

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

struct Program::Runtime {
  Module module;

  std::vector<EValue> call(const std::string& path, const char* method, const std::vector<EValue>& inputs) {
    auto result = module.execute(method, inputs);
    if (result.ok()) return std::move(result.get());
    throw Error(path + ": the ExecuTorch runtime could not run '" + method + "'");
  }
};

namespace {

std::vector<float> floats(const EValue& value) {
  auto tensor = value.toTensor();
  if (tensor.scalar_type() != executorch::aten::ScalarType::Float) throw Error("an output is not of floats");
  return {tensor.const_data_ptr<float>(), tensor.const_data_ptr<float>() + tensor.numel()};
}

}  // namespace

Manifest Manifest::parse(const std::string& json, const std::string& where) {
  try {
    Json j = parse_json(json), adapter = j.at("adapter"), subspace = adapter.at("subspace"), mask = j.at("mask_token");
    if (j.at("format") != "prge" || j.at("version") != 1) throw Error("another version");
    if (j.at("kind") != "step") throw Error("it continues text, and does not train");
    auto size = [&](const char* name) { return whole(j.at(name), 1 << 20); };
    Manifest m{j.at("model"), j.at("model_sha256"), adapter.at("sha256"), j.at("quantization"), j.at("noise"),
               j.at("perturb"), j.at("optimizer"), j.at("objective"), subspace.is_null() ? "" : std::string(subspace),
               j.at("tokenizer_sha256"), j.at("answer_at"), size("queries"), size("batch"), size("min_tokens"),
               size("max_tokens"), whole(j.at("state_size")), size("max_targets"), whole(j.at("pad_token")),
               mask.is_null() ? -1 : whole(mask), whole(j.at("architecture").at("vocabulary")),
               whole(adapter.at("rank")), 0, static_cast<int64_t>(j.at("labels").size()), adapter.at("alpha"),
               j.at("betas").at(0), j.at("betas").at(1), j.at("eps"), j.at("lr"), j.at("outer"), j.at("inner"),
               j.at("choices") != "", 0};
    for (auto& module : adapter.at("modules"))
      m.parameters += whole(module.at("core").at(0), 1 << 20) * whole(module.at("core").at(1), 1 << 20);
    if (m.queries < 1 || m.batch < 1 || m.max_tokens < 1 || m.parameters < 1 || m.parameters > m.state_size)
      throw Error("its sizes make no step");
    std::string form;
    for (auto* name : {"objective", "template", "target", "label_column", "choices", "chat_template", "answer_at"})
      form += std::string(j.at(name)) + '\0';
    for (int64_t number : {m.mask_token, m.max_tokens, m.max_targets}) form += std::to_string(number) + '\0';
    for (auto& label : j.at("labels")) form += std::string(label.at("name")) + '\0';
    m.form = crc32(form);
    return m;
  } catch (const std::exception& e) {
    throw Error(where + " is not a program made by prge, or by another version of it (" + e.what() + ")");
  }
}

Program::Program(const std::string& path, unsigned threads)
    : path_(fs::exists(path + "/program.pte") ? path + "/program.pte" : path) {
  using executorch::runtime::Error;
  using Verification = executorch::runtime::Program::Verification;
  if (!fs::exists(path_)) throw prge::Error(path_ + " does not exist; make it with `prge export`");
  if (threads && !executorch::extension::threadpool::get_threadpool()->_unsafe_reset_threadpool(threads))
    throw prge::Error("the runtime does not take " + std::to_string(threads) + " threads");
  runtime_.reset(new Runtime{Module(path_, Module::LoadMode::Mmap)});
  Module& module = runtime_->module;
  if (module.load(Verification::InternalConsistency) != Error::Ok)
    throw prge::Error(path_ + " is no ExecuTorch program, or it is truncated or damaged; copy or export it again");
  auto names = module.method_names();
  if (!names.ok() || !names->count("manifest") || !names->count("forward"))
    throw prge::Error(path_ + " is an ExecuTorch program, but not one made by prge (it has no manifest)");
  auto text = runtime_->call(path_, "manifest", {});
  if (text.empty() || !text[0].isString()) throw prge::Error(path_ + " has no manifest");
  manifest_ = Manifest::parse(std::string(text[0].toString().data(), text[0].toString().size()), path_);
  if (module.load_method("forward") != Error::Ok)
    throw prge::Error(path_ + " is damaged, or made for another version of the ExecuTorch runtime");
}

Program::~Program() = default;

std::vector<float> Program::initial_state() const {
  if (manifest_.subspace != "peft") return std::vector<float>(manifest_.state_size, 0.0f);
  std::string file = fs::path(path_).replace_filename("initial.safetensors").string();
  Tensors held = Tensors::read(file);
  auto state = held.vectors["state"];
  if (static_cast<int64_t>(state.size()) != manifest_.state_size ||
      held.metadata["adapter_sha256"] != manifest_.adapter_sha256)
    throw Error(file + " is not the state that the program goes on from; copy it there again");
  return state;
}

Program::Result Program::execute(const Batch& rows, const std::vector<float>& state, int64_t seed, double lr,
                                 double eps) {
  using executorch::extension::make_tensor_ptr;
  const Manifest& m = manifest_;
  int64_t length = m.min_tokens, width = m.label_words() ? 1 : m.max_targets;
  for (auto* e : rows) length = std::max<int64_t>(length, e->tokens.size());
  // Right-padded rows; positions whose next token is a target; the targets' or the label's index; their weights.
  std::vector<int64_t> tokens(rows.size() * length, m.pad_token), position(rows.size() * width), target = position;
  std::vector<float> weight(position.size()), from = state;
  for (size_t row = 0; row < rows.size(); row++) {
    const Example& e = *rows[row];
    std::copy(e.tokens.begin(), e.tokens.end(), tokens.begin() + row * length);
    int64_t end = e.tokens.size(), at = row * width;
    if (m.label_words()) {
      auto mask = std::find(e.tokens.begin(), e.tokens.end(), m.mask_token) - e.tokens.begin();
      position[at] = m.answer_at == "mask" ? mask : m.answer_at == "first" ? 0 : end - 1;
      target[at] = std::max(e.label, 0);
    }
    for (int64_t i = 0; i < e.targets; i++) {
      position[at + i] = end - e.targets - 1 + i;
      target[at + i] = e.tokens[end - e.targets + i];
      weight[at + i] = static_cast<float>(1.0 / e.targets);
    }
  }
  auto n = static_cast<int32_t>(rows.size()), wide = static_cast<int32_t>(width);
  std::vector<executorch::extension::TensorPtr> inputs = {
      make_tensor_ptr({static_cast<int32_t>(m.state_size)}, std::move(from)),
      make_tensor_ptr({n, static_cast<int32_t>(length)}, std::move(tokens)),
      make_tensor_ptr({n, wide}, std::move(position)),
      m.label_words() ? make_tensor_ptr({n}, std::move(target)) : make_tensor_ptr({n, wide}, std::move(target))};
  if (!m.label_words()) inputs.push_back(make_tensor_ptr({n, wide}, std::move(weight)));
  inputs.push_back(make_tensor_ptr({1}, std::vector<int64_t>{seed}));
  inputs.push_back(make_tensor_ptr({1}, std::vector<float>{static_cast<float>(lr)}));
  inputs.push_back(make_tensor_ptr({1}, std::vector<float>{static_cast<float>(eps)}));
  auto outputs = runtime_->call(path_, "forward", std::vector<EValue>(inputs.begin(), inputs.end()));
  Result result{floats(outputs.at(0)), floats(outputs.at(1)), {}};
  if (m.label_words()) result.scores = floats(outputs.at(2));
  if (result.state.size() != state.size() || result.losses.size() != rows.size() ||
      result.scores.size() != (m.label_words() ? rows.size() * m.labels : 0))
    throw Error(path_ + ": its outputs are not of the size that its manifest says");
  return result;
}

Program::Result Program::step(const Batch& batch, const std::vector<float>& state, int64_t seed, double lr,
                              double eps) {
  const Manifest& m = manifest_;
  Batch rows;
  for (int64_t copy = 0; copy < m.copies(); copy++) rows.insert(rows.end(), batch.begin(), batch.end());
  int64_t seeds = m.outer ? 1 : m.queries, signs = m.inner ? 1 : 2;
  std::vector<float> total(state.size()), plus, minus;
  for (int64_t query = 0; query < seeds; query++) {
    for (int64_t sign = 0; sign < signs; sign++) {
      Result one = execute(rows, state, seed + query, lr / static_cast<double>(seeds), sign ? -eps : eps);
      one.scores.clear();
      if (m.perturb == "activations") return one;
      // One execution holds its copies at +eps before those at -eps, or one sign alone.
      for (int64_t copy = 0; copy < m.copies(); copy++) {
        double sum = 0;
        for (int64_t i = 0; i < m.batch; i++) sum += one.losses[copy * m.batch + i];
        bool second = signs == 2 ? sign : 2 * copy >= m.copies();
        (second ? minus : plus).push_back(static_cast<float>(sum / static_cast<double>(m.batch)));
      }
      if (seeds * signs == 1) total = one.state;
      for (size_t i = 0; i < total.size() && seeds * signs > 1; i++) total[i] += one.state[i] - state[i];
    }
  }
  plus.insert(plus.end(), minus.begin(), minus.end());
  for (size_t i = 0; i < total.size() && seeds * signs > 1; i++) total[i] = state[i] + total[i];
  return {std::move(total), std::move(plus), {}};
}

}  // namespace prge
