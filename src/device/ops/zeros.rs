//! Memory for large results.

/// So many zeros, on large pages where the system has them: with ordinary ones it takes longer to hand out the memory of
/// a plane than to convolve it.
pub fn zeros(count: usize) -> Vec<f32> {
    let zeros = vec![0.0; count];
    #[cfg(target_os = "linux")]
    prefer_large_pages(&zeros);
    zeros
}

#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "advice to the system")]
fn prefer_large_pages(memory: &[f32]) {
    const LARGE: usize = 2 << 20;
    let (first, bytes) = (memory.as_ptr() as usize, size_of_val(memory));
    let (begin, end) = (first.next_multiple_of(LARGE), (first + bytes) / LARGE * LARGE);
    if begin < end {
        // SAFETY: the range lies in memory that we have, and the advice changes nothing of what is in it.
        unsafe {
            libc::madvise(begin as *mut libc::c_void, end - begin, libc::MADV_HUGEPAGE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::zeros;

    #[test]
    fn small_or_large_they_are_zeros() {
        for count in [0, 1, 3 << 20] {
            let zeros = zeros(count);
            assert_eq!(zeros.len(), count);
            assert!(zeros.iter().all(|zero| zero.to_bits() == 0));
        }
    }
}
