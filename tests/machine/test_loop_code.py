"""What is moved out of a loop in C++, and what is not."""

from bilevel_cli.machine.loop_code import once

CODE = """
    RAIIAtenTensorHandle buf0;
    while (1) {
        // subgraph: body
        AtenTensorHandle number_handle;
        AOTI_TORCH_ERROR_CODE_CHECK(aoti_torch_assign_tensors_out(buf0, &number_handle));
        RAIIAtenTensorHandle number(number_handle);
        AtenTensorHandle x_handle;
        AOTI_TORCH_ERROR_CODE_CHECK(aoti_torch_assign_tensors_out(argument1, &x_handle));
        RAIIAtenTensorHandle x(x_handle);
        static constexpr int64_t sizes[] = {3L, };
        AtenTensorHandle buf1_handle;
        AOTI_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(1, sizes, sizes, f64, cpu, 0, &buf1_handle));
        RAIIAtenTensorHandle buf1(buf1_handle);
        AtenTensorHandle buf2_handle;
        AOTI_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(1, sizes, sizes, i64, cpu, 0, &buf2_handle));
        RAIIAtenTensorHandle buf2(buf2_handle);
        mm(buf1, wrap_with_raii_handle_if_needed(reinterpret_tensor_wrapper(x, 1, sizes, sizes, 0L)));
        add(buf2, wrap_with_raii_handle_if_needed(reinterpret_tensor_wrapper(number, 1, sizes, sizes, 0L)));
        buf1.reset();
        number.reset();
        buf0.reset();
        buf0 = std::move(buf2);
    }
"""  # noqa: E501


def test_memory_handles_and_views_are_made_before_a_loop_but_those_of_what_is_replaced() -> None:
    before, inside = once(CODE).split("while (1)")
    inside = "\n".join(line.strip() for line in inside.splitlines() if line.strip())
    assert inside == "\n".join(
        [
            "{",
            "// subgraph: body",
            "auto& number = buf0;",
            "AtenTensorHandle buf2_handle;",
            "AOTI_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(1, sizes, sizes, i64, cpu, 0, "
            "&buf2_handle));",
            "RAIIAtenTensorHandle buf2(buf2_handle);",
            "mm(buf1, x_view0);",
            "add(buf2, wrap_with_raii_handle_if_needed(reinterpret_tensor_wrapper(number, 1, "
            "sizes, sizes, 0L)));",
            "buf0.reset();",
            "buf0 = std::move(buf2);",
            "}",
        ]
    )
    order = ["int64_t sizes[]", "auto& x = argument1", "buf1(buf1_handle)", "auto x_view0 = "]
    places = [before.index(part) for part in order]
    assert places[0] == min(places)
    assert places[-1] == max(places)


def test_code_without_a_loop_stays_as_it_is() -> None:
    straight = CODE.replace("while (1)", "if (x)")
    assert once(straight) == straight
