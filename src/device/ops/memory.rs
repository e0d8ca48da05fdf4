//! Memory for large results, on large pages where the system has them: with ordinary ones it takes longer to hand out
//! the memory of a plane than to convolve it.

/// So many zeros.
pub fn zeros(count: usize) -> Vec<f32> {
    let zeros = vec![0.0; count];
    prefer_large_pages(&zeros);
    zeros
}

/// Makes a buffer that long, if it is shorter; what was in it is lost then.
pub fn lengthen<T: Copy>(buffer: &mut Vec<T>, count: usize, empty: T) {
    if buffer.capacity() < count {
        *buffer = Vec::with_capacity(count);
        prefer_large_pages(buffer.spare_capacity_mut());
    }
    if buffer.len() < count {
        buffer.resize(count, empty);
    }
}

/// So many numbers; what is in them is left from before.
pub fn sized(room: &mut Vec<f32>, count: usize) -> &mut [f32] {
    lengthen(room, count, 0.0);
    &mut room[..count]
}

#[cfg(not(target_os = "linux"))]
fn prefer_large_pages<T>(_: &[T]) {}

#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "advice to the system")]
fn prefer_large_pages<T>(memory: &[T]) {
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
    use super::{lengthen, zeros};

    #[test]
    fn small_or_large_they_are_zeros() {
        for count in [0, 1, 3 << 20] {
            let zeros = zeros(count);
            assert_eq!(zeros.len(), count);
            assert!(zeros.iter().all(|zero| zero.to_bits() == 0));
        }
    }

    #[test]
    fn buffers_only_grow() {
        let mut buffer = Vec::new();
        for (count, length) in [(3, 3), (2, 3), (3 << 20, 3 << 20), (5, 3 << 20)] {
            lengthen(&mut buffer, count, 7u32);
            assert_eq!((buffer.len(), buffer[count - 1]), (length, 7));
        }
    }
}
