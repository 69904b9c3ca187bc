// What torch asks of CUDA from C++ before a tensor may say that it is on "cuda": one device that is
// there, a guard that has nothing to switch, and generators that belong to the device.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/FakeGuardImpl.h>

namespace at {

// The numbers of a CPU's generator, under the name of the device.
struct DeviceGenerator final : CPUGeneratorImpl {
  DeviceGenerator() { device_ = Device(kCUDA, 0); }
};

struct CUDAHooks final : CUDAHooksInterface {
  explicit CUDAHooks(CUDAHooksArgs) {}
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasCUDA() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  DeviceIndex deviceCount() const override { return 1; }
  DeviceIndex getCurrentDevice() const override { return 0; }
  Generator getNewGenerator(DeviceIndex) const override {
    return make_generator<DeviceGenerator>();
  }
};
REGISTER_CUDA_HOOKS(CUDAHooks)

} // namespace at

C10_REGISTER_GUARD_IMPL(CUDA, c10::impl::FakeGuardImpl<c10::DeviceType::CUDA>)
